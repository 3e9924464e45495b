set -eu
cluster=${1-${KIND_CLUSTER_NAME-kind}}
engine=${ENGINE-${KIND_EXPERIMENTAL_PROVIDER-docker}} # or podman

node_script() {
	cat <<'END_OF_NODE'
@NODE@
END_OF_NODE
}

main() {
	nodes=$(kind get nodes --name "$cluster")
	[ -n "$nodes" ] || {
		echo "container-registry-proxy: cluster $cluster has no nodes" >&2
		exit 1
	}
	for node in $nodes; do
		echo "$node:"
		node_script | "$engine" exec -i "$node" sh
	done
}

main # at the end, so that half a script does nothing
