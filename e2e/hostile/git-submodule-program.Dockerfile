# tries: a submodule whose transport runs a program
# ends: Failed transport 'ext' not allowed
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/submodule-program.git#main /a
RUN echo "ESCAPED"
