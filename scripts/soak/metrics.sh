#!/usr/bin/env bash
# A real Prometheus scrapes a daemon under load, and an alert fires: metrics.sh [SECONDS]
# LANDRO names the binary; without it the release is built. Prometheus is Debian's, unpacked if it is not installed.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/setup.sh
seconds=${1:-30}
[ "$seconds" -gt 0 ] 2>/dev/null || die "SECONDS is a number"
install_packages curl jq
if [ -z "${LANDRO:-}" ]; then
    setup build
    cargo build --locked --release
    LANDRO=${CARGO_TARGET_DIR:-target}/release/landro
fi

dir=$(mktemp -d)
pids=()
cleanup() {
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    [ ${#pids[@]} = 0 ] || wait "${pids[@]}" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

PATH=$PATH:$dir/prometheus/usr/bin
if ! command -v prometheus >/dev/null; then
    # Not installed: the package would start a server for everybody.
    (cd "$dir" && apt-get download -q prometheus)
    dpkg -x "$dir"/prometheus_*.deb "$dir/prometheus"
fi

echo "== rules"
cp docs/monitoring/rules.yml scripts/soak/metrics_rules.yml "$dir"
promtool check rules "$dir/rules.yml"
promtool test rules "$dir/metrics_rules.yml"
jq -e '.panels | length > 0' docs/monitoring/dashboard.json >/dev/null

echo "== a daemon under load, scraped every second for $seconds s"
mkdir "$dir"/{root,here,server,client,stranger}
head -c 100M /dev/urandom >"$dir/here/large"
mkdir "$dir/here/small"
for ((i = 0; i < 300; i++)); do head -c 2000 /dev/urandom >"$dir/here/small/$i"; done
id=$(LANDRO_CONFIG_DIR=$dir/client "$LANDRO" id)
LANDRO_CONFIG_DIR=$dir/server "$LANDRO" serve "$dir/root" --listen 127.0.0.1:0 --allow "$id" \
    --metrics 127.0.0.1:0 >"$dir/out" 2>"$dir/log" &
pids+=($!)
for ((i = 0; i < 100; i++)); do grep -q '^listening on ' "$dir/out" && break || sleep 0.1; done
url=$(sed -n 's/^listening on \(landro:[^ ]*\) id .*/\1/p' "$dir/out")
peer=$(sed -n 's/^listening on .* id //p' "$dir/out")
at=$(sed -n 's,.*metrics are at http://\([^/]*\)/metrics.*,\1,p' "$dir/log")
[ -n "$url" ] && [ -n "$at" ] || die "the daemon did not start: $(cat "$dir/log")"

cat >"$dir/prometheus.yml" <<END
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: ["$dir/rules.yml"]
scrape_configs:
  - job_name: landro
    static_configs: [{targets: ["$at"]}]
END
promtool check config "$dir/prometheus.yml"
# Port 0 is none that Prometheus tells of.
port=$((20000 + RANDOM % 10000))
prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/tsdb" --log.level=warn \
    --web.listen-address="127.0.0.1:$port" 2>"$dir/prometheus.log" &
pids+=($!)
api() { curl -sSf --max-time 10 "http://127.0.0.1:$port/api/v1/$1" "${@:2}"; }
query() { api query --data-urlencode "query=$1" | jq -r '.data.result[0].value[1] // "nothing"'; }
for ((i = 0; i < 100; i++)); do [ "$(query 'up{job="landro"}' 2>/dev/null)" = 1 ] && break || sleep 0.2; done
[ "$(query 'up{job="landro"}')" = 1 ] || die "Prometheus does not get its answer: $(cat "$dir/prometheus.log")"

cp_to() { LANDRO_CONFIG_DIR=$dir/client "$LANDRO" cp --peer "$peer" "$@" >/dev/null; }
began=$SECONDS copies=0
while ((SECONDS - began < seconds)); do
    cp_to --force "$dir/here/large" "$dir/here/small" "$url"
    cp_to --force --lane-kinds tls "${url}large" "$dir/here/back"
    copies=$((copies + 1))
done
! LANDRO_CONFIG_DIR=$dir/stranger "$LANDRO" ls --peer "$peer" "$url" 2>/dev/null || die "a stranger was let in"
sleep 3

# is NAME QUERY TEST: what the query gives is as the test of awk says.
failed=0
is() {
    local value
    value=$(query "$2")
    if awk -v x="$value" "BEGIN { exit !(x != \"nothing\" && ($3)) }"; then
        echo "$1: $value"
    else
        echo "WRONG: $1: $value is not $3 ($2)" >&2
        failed=1
    fi
}
bytes=$((copies * 100 * 1024 * 1024))
is "copies: file data received" 'landro_file_bytes_total{verb="push"}' "x == $((bytes + copies * 300 * 2000))"
is "file data sent" 'landro_file_bytes_total{verb="pull"}' "x == $bytes"
is "bytes per second meanwhile" "max_over_time(rate(landro_file_bytes_total{verb=\"push\"}[5s])[${seconds}s:1s])" "x > 1e6"
is "over TLS" 'landro_transport_bytes_total{kind="tls",direction="sent"}' "x >= $bytes"
is "CPU of the workers" 'sum(landro_worker_cpu_seconds_total)' "x > 0"
is "half of the round trips below" 'histogram_quantile(0.5, sum by (le) (landro_rtt_seconds_bucket))' "x > 0 && x < 1"
is "sessions that failed" 'sum(landro_sessions_ended_total{outcome!="complete"})' "x == 0"
is "series of the daemon" 'scrape_samples_scraped{job="landro"}' "x > 100 && x < 1000"
is "slowest scrape" "max_over_time(scrape_duration_seconds{job=\"landro\"}[${seconds}s])" "x < 1"
is "scrapes that failed" "sum_over_time((1 - up{job=\"landro\"})[${seconds}s:1s])" "x == 0"
rules=$(api rules | jq '[.data.groups[].rules[]] | length')
unhealthy=$(api rules | jq '[.data.groups[].rules[] | select(.health != "ok")] | length')
echo "rules: $rules loaded, $unhealthy not well"
[ "$rules" -gt 5 ] && [ "$unhealthy" = 0 ] || failed=1
firing=$(api alerts | jq -r '[.data.alerts[] | select(.state == "firing") | .labels.alertname] | unique | join(" ")')
echo "alerts that fire: $firing"
[[ " $firing " == *" LandroStrangers "* ]] || failed=1
[ "$failed" = 0 ] || die "see above"
