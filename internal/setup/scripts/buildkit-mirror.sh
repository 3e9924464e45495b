# A builder of "docker buildx" has its own: docker buildx create --config FILE, with a file like this one.
file=/etc/buildkit/buildkitd.toml
authority=/etc/buildkit/container-registry-proxy.crt
# how the proxy is reached
how='http = true'
[ -z "$tls" ] || how="ca = [\"$authority\"]"

check() {
	theirs "$file" || return 0
	if grep -qF '"@AUTHORITY@"' "$file"; then
		say "$file names the proxy already"
		exit 0
	fi
	fail "$file is there already, and nothing is written over it. Add to it for each registry, and restart buildkitd:
  [registry.\"docker.io\"]
    mirrors = [\"@AUTHORITY@\"]
  and once:
  [registry.\"@AUTHORITY@\"]
    $how"
}

write() {
	trust_for_proxy "$authority"
	put "$file" <<END
# From @PROXY@/setup
$(for registry in @REGISTRIES@; do
	echo "[registry.\"$registry\"]"
	echo '  mirrors = ["@AUTHORITY@"]'
done)
[registry."@AUTHORITY@"]
  $how
END
}

apply() { ! here buildkit || restart buildkit; }
