// Package hostile holds the tests of package pop3 against servers, and
// callers, that mean harm. It has no code of its own.
package hostile
