# tries: working directories below links that lead out of the image: whoever makes them must not follow
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN ln -s ../../../../../../../../../../tmp /up && ln -s /tmp /absolute
WORKDIR /up/evil-workdir
WORKDIR /absolute/evil-workdir-2
RUN . /lib/hunt.sh; [ -d /tmp/evil-workdir ] && [ -d /tmp/evil-workdir-2 ] && tried 2
