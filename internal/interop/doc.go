// Package interop tests the POP3 client against real servers, each configured and started by the tests themselves on
// loopback, in a folder of its own, and stopped again. A server is a row of the servers table; what it can do and what it
// does differently are fields of that row. The checks are one table for all of them.
//
// The servers are started in mount and process namespaces of their own, which takes root on Linux; install.sh fetches
// them on Debian. What is missing is skipped, one line a server, unless POP3_INTEROP=require says that Dovecot and
// one more must run.
package interop
