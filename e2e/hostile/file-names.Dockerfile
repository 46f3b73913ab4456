# tries: file names with line breaks, quotes and codes for the terminal, in layers and in a failing COPY
# ends: Failed succeeded": not found
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable AS names
RUN mkdir /n && cd /n && touch "$(printf 'a\nb')" "$(printf 'c\033[2Jd')" '"; rm -rf *; "' ./--help "$(printf 'e\rf')" && echo TRIED 5
FROM registry.buildpools.test:5000/library/attacker:stable
COPY --from=names /n/ /n/
COPY --from=names ["/n/missing\n\r\u0007\u009b2Jneighbour succeeded", "/m"]
