# tries: /proc and /sys of whoever carries out a COPY
# ends: Failed "/proc/1/cmdline": not found
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
COPY --from=registry.buildpools.test:5000/library/attacker:stable /proc/self/environ /e
COPY --from=registry.buildpools.test:5000/library/attacker:stable /proc/1/cmdline /c
RUN attack scan /e /c; echo "ESCAPED: there was a /proc"
