file=/etc/rancher/k3s/registries.yaml
authority=/etc/rancher/k3s/container-registry-proxy.crt

check() {
	here k3s || here k3s-agent || command -v k3s >/dev/null || fail "k3s is not here; nothing was changed"
	theirs "$file" || return 0
	if grep -qF '"@PROXY@"' "$file"; then
		say "$file names the proxy already"
		exit 0
	fi
	fail "$file is there already, and nothing is written over it. Add to its mirrors each registry, and restart k3s:
  docker.io:
    endpoint: [\"@PROXY@\"]"
}

# secure: by what the proxy's certificate is checked.
secure() {
	[ -n "$tls" ] || return 0
	printf '\nconfigs:\n  "@AUTHORITY@":\n    tls:\n      ca_file: %s' "$authority"
}

write() {
	trust_for_proxy "$authority"
	put "$file" <<END
# From @PROXY@/setup
mirrors:
$(for registry in @REGISTRIES@; do
	echo "  \"$registry\":"
	echo '    endpoint: ["@PROXY@"]'
done)$(secure)
END
}

apply() {
	for service in k3s k3s-agent; do
		! here "$service" || restart "$service"
	done
}
