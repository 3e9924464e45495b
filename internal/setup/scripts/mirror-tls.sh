# The proxy is reached over TLS. A client checks its certificate by the system's trusted roots and by the proxy's authority,
# which is trusted for the proxy alone.
tls=yes
trust_for_proxy() {
	put "$1" <<'END'
@CERTIFICATES@
END
}
