// Command streamclient drives a CRI streaming URL with the clients that kubectl and the kubelet
// use: k8s.io/client-go remotecommand and portforward, over SPDY and over WebSocket.
//
//	streamclient exec|attach --url URL --protocol spdy|ws [--stdin] [--stdout=false] [--stderr=false] [--tty] [--sizes 80x24,100x40]
//	streamclient portforward --url URL --protocol spdy|ws --ports LOCAL:REMOTE[,...]
//	streamclient get --url URL
//	streamclient certificate DIR
//
// exec and attach exit with the remote exit code; another failure is 125 with its message on
// stderr. get writes the answer's body, as far as it comes. certificate writes a new self-signed DIR/cert.pem and DIR/key.pem for 127.0.0.1.
// portforward prints "ready LOCAL:REMOTE..." and runs until its stdin ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

type options struct {
	url, protocol, sizes, ports string
	stdin, stdout, stderr, tty  bool
}

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("usage: streamclient exec|attach|portforward --url URL ..."))
	}
	if os.Args[1] == "certificate" && len(os.Args) == 3 {
		if err := certificate(os.Args[2]); err != nil {
			fail(err)
		}
		return
	}
	var o options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.url, "url", "", "streaming URL")
	flags.StringVar(&o.protocol, "protocol", "spdy", "spdy or ws")
	flags.BoolVar(&o.stdin, "stdin", false, "send stdin")
	flags.BoolVar(&o.stdout, "stdout", true, "receive stdout")
	flags.BoolVar(&o.stderr, "stderr", true, "receive stderr, if there is no terminal")
	flags.BoolVar(&o.tty, "tty", false, "the process has a terminal")
	flags.StringVar(&o.sizes, "sizes", "", "terminal sizes to send, such as 80x24,100x40")
	flags.StringVar(&o.ports, "ports", "", "LOCAL:REMOTE,...")
	if err := flags.Parse(os.Args[2:]); err != nil {
		fail(err)
	}
	target, err := url.Parse(o.url)
	if err != nil {
		fail(err)
	}
	config := &rest.Config{
		Host:            target.Scheme + "://" + target.Host,
		TLSClientConfig: rest.TLSClientConfig{Insecure: target.Scheme == "https"},
	}
	switch os.Args[1] {
	case "exec", "attach":
		err = command(config, target, o)
	case "get":
		err = get(config, target)
	case "portforward":
		err = forward(config, target, o)
	default:
		err = fmt.Errorf("unknown subcommand %q", os.Args[1])
	}
	var code utilexec.CodeExitError
	if errors.As(err, &code) {
		os.Exit(code.Code)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "streamclient:", err)
	os.Exit(125)
}

func command(config *rest.Config, target *url.URL, o options) error {
	var executor remotecommand.Executor
	var err error
	if o.protocol == "ws" {
		executor, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, target.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	}
	if err != nil {
		return err
	}
	streams := remotecommand.StreamOptions{Tty: o.tty}
	if o.stdin {
		streams.Stdin = os.Stdin
	}
	if o.stdout {
		streams.Stdout = os.Stdout
	}
	if o.stderr && !o.tty {
		streams.Stderr = os.Stderr
	}
	if o.sizes != "" {
		sizes := &sizeQueue{}
		for _, text := range strings.Split(o.sizes, ",") {
			var size remotecommand.TerminalSize
			if _, err := fmt.Sscanf(text, "%dx%d", &size.Width, &size.Height); err != nil {
				return fmt.Errorf("size %q: %w", text, err)
			}
			sizes.left = append(sizes.left, size)
		}
		streams.TerminalSizeQueue = sizes
	}
	return executor.StreamWithContext(context.Background(), streams)
}

// sizeQueue hands its sizes out one after another, a little apart.
type sizeQueue struct{ left []remotecommand.TerminalSize }

func (q *sizeQueue) Next() *remotecommand.TerminalSize {
	if len(q.left) == 0 {
		return nil
	}
	next := q.left[0]
	q.left = q.left[1:]
	time.Sleep(20 * time.Millisecond)
	return &next
}

func get(config *rest.Config, target *url.URL) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	answer, err := client.Get(target.String())
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	_, err = io.Copy(os.Stdout, answer.Body)
	return err
}

func forward(config *rest.Config, target *url.URL, o options) error {
	stop, ready := make(chan struct{}), make(chan struct{})
	ports := strings.Split(o.ports, ",")
	var forwarder *portforward.PortForwarder
	if o.protocol == "ws" {
		dialer, err := portforward.NewSPDYOverWebsocketDialer(target, config)
		if err != nil {
			return err
		}
		forwarder, err = portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, ports, stop, ready, io.Discard, os.Stderr)
		if err != nil {
			return err
		}
	} else {
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return err
		}
		dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
		forwarder, err = portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, ports, stop, ready, io.Discard, os.Stderr)
		if err != nil {
			return err
		}
	}
	go func() {
		<-ready
		forwarded, err := forwarder.GetPorts()
		if err != nil {
			fail(err)
		}
		line := "ready"
		for _, port := range forwarded {
			line += fmt.Sprintf(" %d:%d", port.Local, port.Remote)
		}
		fmt.Println(line)
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	return forwarder.ForwardPorts()
}
