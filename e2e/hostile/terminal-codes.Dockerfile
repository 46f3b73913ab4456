# tries: codes for the terminal in the log, in the step and in the message of its failure
# ends: Failed failed with exit code 7
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN printf '\033]0;owned\007\033[2J\033[31mred\r[neighbour] succeeded\n' && printf '\033[2J\033]52;c;ZXZpbA==\007 TRIED 1\n' >&2; exit 7
