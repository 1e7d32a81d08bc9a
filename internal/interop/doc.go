// Package interop tests the client against real servers. The tests configure, start and stop them, each in a temporary
// folder and at a loopback address of its own. All servers go through the same checks, and through some of their own; a
// server skips what it cannot do.
//
// The servers run in mount and process namespaces, which takes root on Linux. install.sh fetches them on Debian 12. A
// server that is missing or does not start is skipped. With POP3_INTEROP=require it must start if install.sh got it, and
// Dovecot, Courier and nginx must be there.
package interop
