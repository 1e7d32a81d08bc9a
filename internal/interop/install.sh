#!/bin/sh
# install.sh gets the POP3 servers that the tests in this folder run, on Debian 12, as root, with apt alone.
# Debian's POP3 servers conflict with each other, so Dovecot alone is installed. Each of the others is unpacked, with what
# it needs and the machine lacks, into a folder of its own in POP3_INTEROP_ROOT (default
# ${XDG_CACHE_HOME:-$HOME/.cache}/pop3-interop). The tests lay that folder over the root for that server alone.
# A second run is quick. Without Dovecot, Courier or nginx it fails.
set -u
root=${POP3_INTEROP_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/pop3-interop}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
mkdir -p "$root"

# retry CMD... runs CMD once more after an update of the package lists, which a new machine does not have.
retry() {
	"$@" && return
	[ "${refreshed:-}" ] || apt-get -q update
	refreshed=yes
	"$@"
}

# unpack NAME PACKAGE... makes $root/NAME, or leaves nothing there.
unpack() (
	name=$1
	shift
	rm -rf "$root/$name" "$root/$name.tmp" "$root/$name.deb"
	mkdir -p "$root/$name.tmp/usr/lib" "$root/$name.tmp/usr/bin" "$root/$name.tmp/usr/sbin" \
		"$root/$name.tmp/usr/lib64" "$root/$name.tmp/run" "$root/$name.tmp/var" "$root/$name.deb"
	# A real /lib would hide the root's link of that name, and with it the dynamic linker.
	for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$name.tmp/$d"; done
	ln -s ../run "$root/$name.tmp/var/run"
	cd "$root/$name.deb" || exit
	apt-get install -qq -s --no-install-recommends "$@" >plan || exit
	packages=$(sed -n '/-dev /d; s/^Inst \([^ ]*\) .*(\([^ ]*\) .*/\1=\2/p' plan)
	[ -z "$packages" ] || apt-get -q download $packages || exit
	find . -name '*.deb' >debs
	while read -r deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -xp --keep-directory-symlink -C "$root/$name.tmp" || exit
	done <debs
	sed -n "s/^Inst $1 .*(\([^ ]*\) .*/\1/p" plan >version
	[ -s version ] || dpkg-query -W -f '${Version}\n' "$1" >version || exit
	mv version "$root/$name.tmp/.version"
	mv "$root/$name.tmp" "$root/$name"
)

# want NAME PACKAGE... gets a server.
want() {
	name=$1
	shift
	if [ -d "$root/$name" ] || retry unpack "$name" "$@" >"$root/$name.log" 2>&1; then
		echo "interop: $name ready in $root/$name"
	else
		echo "interop: $name NOT available, see $root/$name.log"
		missing="$missing $name"
	fi
	rm -rf "$root/$name.tmp" "$root/$name.deb"
}

missing=
if [ -x /usr/lib/dovecot/pop3 ] || retry apt-get install -qq -y --no-install-recommends dovecot-pop3d >"$root/dovecot.log" 2>&1; then
	echo "interop: dovecot $(dovecot --version) installed"
else
	echo "interop: dovecot NOT available, see $root/dovecot.log"
	missing=dovecot
fi
# msmtp-mta stands in for the mail server that apt would choose.
want courier courier-pop msmtp-mta
want cyrus cyrus-pop3d sasl2-bin libsasl2-modules-db msmtp-mta
want popa3d popa3d
want mailutils mailutils-pop3d
want nginx nginx libnginx-mod-mail
want perdition perdition
want twisted python3-twisted python3-openssl python3-service-identity
for name in $missing; do
	case $name in dovecot | courier | nginx) exit 1 ;; esac
done
exit 0
