# tries: Secrets, pods and jobs of the Kubernetes API, anonymously and with any token that can be found
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
ARG NAMESPACE
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
api=https://kubernetes.default.svc
for path in /api/v1/secrets "/api/v1/namespaces/$NAMESPACE/secrets" "/api/v1/namespaces/$NAMESPACE/pods" \
  "/apis/buildpools.dev/v1alpha1/namespaces/$NAMESPACE/buildjobs" "/api/v1/namespaces/$NAMESPACE/serviceaccounts" /metrics /configz; do
  n=$((n + 1))
  body=$(wget -q -T 5 -O - --no-check-certificate "$api$path" 2>/dev/null) && echo "ESCAPED $path: $(echo "$body" | head -c 60)"
done
timeout 4 nc -w 2 kubernetes.default.svc 443 -e true && tried "$n"
ATTACK
