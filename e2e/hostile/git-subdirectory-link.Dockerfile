# tries: a link out of a repository, by #ref:subdir
# ends: Failed git subpath "above" contains non-directory "above"
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/links.git#main:above /up
RUN . /lib/hunt.sh; daemon_file /up/..; cat /up/daemon-canary; echo "ESCAPED"
