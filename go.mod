module container-registry-proxy

go 1.26
