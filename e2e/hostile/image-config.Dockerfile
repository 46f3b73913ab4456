# tries: an image of no layers whose configuration names directories and users that do not exist, then one on top of it
# ends: .*
# Rootless: nothing
# UserNamespace: nothing
FROM scratch AS empty
WORKDIR /../../../../../../etc
USER 4294967295:4294967295
ENV A="\x1b[2J" B="$(reboot)"
VOLUME ["/proc", "/../../.."]
HEALTHCHECK --interval=1s CMD kill -9 -1
STOPSIGNAL 9
ENTRYPOINT ["/proc/self/exe"]
FROM empty
COPY Dockerfile ./
