# tries: options of git in the place of a revision, and transports that run programs
# ends: Failed .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/links.git#--upload-pack=touch${IFS}/tmp/x /a
ADD ext::sh%20-c%20id.git /b
RUN echo "ESCAPED"
