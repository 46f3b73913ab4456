# tries: an image of another tenant's repository
# ends: Failed bob/private refused access to the credential
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/bob/private:1
RUN echo "ESCAPED: pulled"
