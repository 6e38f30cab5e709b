seq 1 3000 | tee a | sha256sum
sha256sum a
sha1sum a
sha512sum a
sha3sum a
md5sum a
cksum a
crc32 a
sha256sum a > sums
sha256sum -c sums
echo bad >> a
sha256sum -c sums
echo $?
