# containerd looks for mirrors in a directory, at each pull anew, if its configuration names one.
directory=/etc/containerd/certs.d
config=/etc/containerd/config.toml
authority=/etc/containerd/container-registry-proxy.crt

looks() { containerd config dump 2>/dev/null | grep -q "config_path = .*$directory"; }

check() {
	command -v containerd >/dev/null || fail "containerd is not here; nothing was changed"
	if looks || ! theirs "$config"; then return; fi
	plugin=io.containerd.grpc.v1.cri
	! grep -q '^version *= *3' "$config" || plugin=io.containerd.cri.v1.images
	fail "containerd does not look for mirrors, and nothing is written over its $config. Add to it, restart containerd, and run this again:
  [plugins.\"$plugin\".registry]
    config_path = \"$directory\""
}

hosts() {
	cat <<'END'
# From @PROXY@/setup
[host."@PROXY@"]
  capabilities = ["pull", "resolve"]
END
	[ -z "$tls" ] || echo "  ca = \"$authority\""
}

write() {
	trust_for_proxy "$authority"
	names=_default
	if theirs "$directory/_default/hosts.toml"; then names='@REGISTRIES@'; fi
	for name in $names; do
		if theirs "$directory/$name/hosts.toml"; then
			say "$directory/$name/hosts.toml is left as it is"
			continue
		fi
		put "$directory/$name/hosts.toml" <<END
$(hosts)
END
	done
	changed_hosts=$changed changed=$resumed
	looks || put "$config" <<END
version = 2
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "$directory"
END
	[ -z "$changed" ] || restart containerd
	changed=$changed$changed_hosts
}

apply() { :; }
