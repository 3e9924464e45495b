// Package e2e pulls images with the clients that people use, dockerd, containerd, podman and skopeo, from Debian's
// docker-registry and from the fake token registry, through the program as it is built. Its invariant: a pull that
// went past the proxy fails, since only the proxy can resolve the registries' names and only it trusts their authority.
// Everything it starts lives in temporary directories and in mount namespaces of its own, and is ended with its test.
package e2e
