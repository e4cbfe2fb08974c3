//go:build tools

// Package tools pins the etcd of the suites cluster and churn.
package tools

import _ "go.etcd.io/etcd/server/v3"
