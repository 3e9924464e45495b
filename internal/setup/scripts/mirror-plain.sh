# The proxy is reached in plain HTTP: there is no certificate to check.
tls=
trust_for_proxy() { :; }
