// kind, for the clusters of the tests: the published module's own main.
package main

import "sigs.k8s.io/kind/cmd/kind/app"

func main() { app.Main() }
