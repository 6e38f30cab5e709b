dd if=/dev/zero bs=1k count=100 2>/dev/null | md5sum
seq 1 1000 > f
dd if=f of=g bs=10 skip=3 seek=2 count=5 2>/dev/null
od -c g
dd if=f of=g bs=1 count=3 conv=notrunc 2>/dev/null
od -An -tx1 g
hexdump -C g
hexdump g
od -t d4 g
xxd g
dd if=f bs=512 count=1 2>&1 >/dev/null | head -2
strings /usr/bin/busybox | head -3
xxd -p g | xxd -r -p | cmp - g
base64 g
base64 g | base64 -d | cmp - g
uuencode x < g
base32 g
