package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"example.com/pop3/internal/pop3test"
)

const sample = "testdata/mail"

// serve runs a server for tests until ctx is done. It prints how to reach it, as
// variables of a shell.
func serve(ctx context.Context, folder string, stdout io.Writer) error {
	server := pop3test.NewServer()
	defer server.Close()
	drop := server.AddUser("ada", "tides")
	if folder == "" {
		folder = sample
	}
	if err := fill(drop, folder); err != nil {
		return err
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer secure.Close()
	go func() {
		for {
			conn, err := secure.Accept()
			if err != nil {
				return
			}
			go server.ServeConn(tls.Server(conn, server.TLS))
		}
	}()
	dir, err := os.MkdirTemp("", "popget-serve-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pop3test.AuthorityPEM(), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "POP3_PLAIN=%s\nPOP3_TLS=%s\nPOP3_USER=ada\nPOP3_PASSWORD=tides\nPOP3_CA=%s\nPOP3_MESSAGES=%d\n",
		server.Addr, secure.Addr(), ca, len(drop.Messages()))
	<-ctx.Done()
	return nil
}

// fill puts the *.eml files of a folder in a maildrop. If all lines of a file end
// in LF, they are given CRLF, as a server does.
func fill(drop *pop3test.Maildrop, folder string) error {
	files, err := os.ReadDir(folder)
	if err != nil && folder == sample {
		return usageError("no " + sample + " here: give a host, give -serve a folder, or run popget at the top of its source tree")
	} else if err != nil {
		return usageError(err.Error())
	}
	for _, f := range files {
		if filepath.Ext(f.Name()) != ".eml" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(folder, f.Name()))
		if err != nil {
			return err
		}
		text := string(data)
		if !strings.Contains(text, "\r\n") {
			text = strings.ReplaceAll(text, "\n", "\r\n")
		}
		drop.Add(text)
	}
	return nil
}
