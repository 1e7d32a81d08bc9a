#!/bin/sh
# install.sh: prepares the POP3 servers that the tests in this folder run, on Debian 12, as root, with apt alone.
# Debian's POP3 servers conflict with each other. Dovecot is installed; each of the others is unpacked, with what it
# needs and the machine lacks, into a folder of its own, which the tests lay over the machine's root for that server alone.
# POP3_INTEROP_ROOT is where they go (default ${XDG_CACHE_HOME:-$HOME/.cache}/pop3-interop). Running it again is quick.
# It fails only if it could not get Dovecot.
set -u
root=${POP3_INTEROP_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/pop3-interop}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
mkdir -p "$root"

# retry CMD...: once more after a refresh of the package lists, which a new machine does not have.
retry() {
	"$@" && return
	[ "${refreshed:-}" ] || apt-get -q update
	refreshed=yes
	"$@"
}

unpack() ( # name, packages: leaves $root/name complete or not at all
	name=$1
	shift
	rm -rf "$root/$name" "$root/$name.tmp" "$root/$name.deb"
	mkdir -p "$root/$name.tmp/usr/lib" "$root/$name.tmp/usr/bin" "$root/$name.tmp/usr/sbin" \
		"$root/$name.tmp/usr/lib64" "$root/$name.tmp/run" "$root/$name.tmp/var" "$root/$name.deb"
	# Laid over a merged root, a real /lib would hide the machine's link, and with it the dynamic linker.
	for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$name.tmp/$d"; done
	ln -s ../run "$root/$name.tmp/var/run"
	cd "$root/$name.deb" || exit
	apt-get install -qq -s --no-install-recommends "$@" >plan || exit
	apt-get -q download $(sed -n '/-dev /d; s/^Inst \([^ ]*\) .*(\([^ ]*\) .*/\1=\2/p' plan) || exit
	for deb in *.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -xp --keep-directory-symlink -C "$root/$name.tmp" || exit
	done
	sed -n "s/^Inst $1 .*(\([^ ]*\) .*/\1/p" plan >"$root/$name.tmp/.version"
	mv "$root/$name.tmp" "$root/$name"
)

want() { # name, packages (msmtp-mta stands in for the mail server that apt would choose)
	name=$1
	shift
	if [ -d "$root/$name" ] || retry unpack "$name" "$@" >"$root/$name.log" 2>&1; then
		echo "interop: $name ready in $root/$name"
	else
		echo "interop: $name NOT available, see $root/$name.log"
	fi
	rm -rf "$root/$name.tmp" "$root/$name.deb"
}

status=0
if [ -x /usr/lib/dovecot/pop3 ] || retry apt-get install -qq -y --no-install-recommends dovecot-pop3d >"$root/dovecot.log" 2>&1; then
	echo "interop: dovecot $(dovecot --version) installed"
else
	echo "interop: dovecot NOT available, see $root/dovecot.log"
	status=1
fi
want courier courier-pop msmtp-mta
want cyrus cyrus-pop3d sasl2-bin libsasl2-modules-db msmtp-mta
want popa3d popa3d
want mailutils mailutils-pop3d
exit $status
