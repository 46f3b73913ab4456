# tries: options of git in the place of a revision
# ends: Failed invalid git ref "--upload-pack=touch${IFS}/tmp/evil-git"
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/links.git#--upload-pack=touch\${IFS}/tmp/evil-git /a
RUN echo "ESCAPED"
