# tries: a directory above a repository, by #ref:subdir
# ends: Failed .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/links.git#main:../../../../.. /up
RUN ls /up; echo "ESCAPED"
