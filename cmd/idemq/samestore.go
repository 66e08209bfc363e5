package main

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// sameStore says whether two descriptions of stores name the same one. Hosts of a Cluster or of Sentinels may be listed in
// any order and in part.
func sameStore(a, b string) bool {
	if a == b {
		return true
	}
	if fastA, durableA, ok := splitTiers(a); ok {
		fastB, durableB, ok := splitTiers(b)
		return ok && sameStore(fastA, fastB) && sameStore(durableA, durableB)
	}
	kindA, hostsA, restA := splitStore(a)
	kindB, hostsB, restB := splitStore(b)
	return kindA == kindB && restA == restB && slices.ContainsFunc(hostsA, func(h string) bool { return slices.Contains(hostsB, h) })
}

// splitStore takes a description apart. TLS makes no other store: the port tells it apart, if anything does.
func splitStore(s string) (kind string, hosts []string, rest string) {
	kind, s, _ = strings.Cut(s, "://")
	if strings.HasPrefix(kind, storeRedisTLS) {
		kind = storeRedis + strings.TrimPrefix(kind, storeRedisTLS)
	}
	s, query, _ := strings.Cut(s, "?")
	list, path, _ := strings.Cut(s, "/")
	for _, h := range strings.Split(list, ",") {
		hosts = append(hosts, sameHost(h))
	}
	prefix := ""
	if q, err := url.ParseQuery(query); err == nil {
		prefix = q.Get("prefix")
	}
	return kind, hosts, path + "?" + prefix
}

// sameHost gives the names of this machine one spelling.
func sameHost(h string) string {
	host, port, err := net.SplitHostPort(h)
	if err != nil {
		return h
	}
	if host == "127.0.0.1" || host == "::1" {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
