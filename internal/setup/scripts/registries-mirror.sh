# podman, buildah, skopeo and CRI-O know the proxy as a mirror of each registry that it caches.
directory=/etc/containers/registries.conf.d

check() {
	@PROGRAMS@ || fail "@CLIENT@ is not here; nothing was changed"
}

# named REGISTRY: somebody else has said where it is.
named() {
	for file in /etc/containers/registries.conf "$directory"/*.conf; do
		if theirs "$file" && grep -Eq "^ *(prefix|location) *= *\"$1\"" "$file"; then
			say "$1 is left as $file has it" >&2
			return 0
		fi
	done
	return 1
}

mirror() {
	cat <<END
[[registry]]
prefix = "$1"
location = "$1"
[[registry.mirror]]
location = "@AUTHORITY@/$1"
END
	[ -n "$tls" ] || echo "insecure = true"
}

write() {
	trust_for_proxy "/etc/containers/certs.d/@AUTHORITY@/ca.crt"
	mirrors=
	for registry in @REGISTRIES@; do
		named "$registry" || mirrors="$mirrors
$(mirror "$registry")"
	done
	put "$directory/zz-container-registry-proxy.conf" <<END
# From @PROXY@/setup$mirrors
END
}

apply() { @APPLY@; }
