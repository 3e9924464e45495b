# The place of authorities that are trusted, and what makes them so.
find_trust() {
	if [ -d /etc/pki/trust/anchors ]; then # SUSE
		anchors=/etc/pki/trust/anchors update=update-ca-certificates
	elif [ -d /etc/pki/ca-trust/source/anchors ]; then # Fedora, RHEL
		anchors=/etc/pki/ca-trust/source/anchors update=update-ca-trust
	elif [ -d /etc/ca-certificates/trust-source/anchors ]; then # Arch
		anchors=/etc/ca-certificates/trust-source/anchors update=update-ca-trust
	else # Debian, Ubuntu, Alpine
		anchors=/usr/local/share/ca-certificates update=update-ca-certificates
	fi
	authority=$anchors/container_registry_proxy.crt
	command -v "$update" >/dev/null || fail "$update is not here: install the package ca-certificates first"
	! theirs "$authority" || [ "$(cat "$authority")" = "$(certificates)" ] || fail "$authority is there already, and nothing is written over it"
}

certificates() {
	cat <<'END'
@CERTIFICATES@
END
}

trust() {
	[ "$(cat "$authority" 2>/dev/null)" = "$(certificates)" ] || {
		begin
		: >"$state/untrusted" # for the scripts of other clients, if this one is cut off
	}
	put "$authority" <<END
$(certificates)
END
	[ -n "$changed" ] || [ -e "$state/untrusted" ] || return 0
	"$update" || {
		rm -f "$authority" # so that the next run tries again
		fail "$update does not take the authority"
	}
	rm -f "$state/untrusted"
}
