package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// untilSignal returns a context that ends with the first SIGINT or SIGTERM, so that what runs is finished. The second
// one ends the process.
func untilSignal(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() { // for as long as the process lives
		<-signals
		cancel()
		second := <-signals
		os.Exit(exitSignal + int(second.(syscall.Signal)))
	}()
	return ctx
}
