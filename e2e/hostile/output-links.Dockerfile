# tries: an image with links in the places of files, which the daemon packs and pushes
# output: links:1
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
mkdir /o
ln -s ../../../../../../../../../../tmp /o/up
ln -s /tmp/daemon-canary /o/file
ln /o/file /o/hard
ln -sfn ../../../../../../../../tmp /var
tried 4
ATTACK
