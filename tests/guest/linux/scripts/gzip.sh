seq 1 20000 > f
gzip -k f
gunzip -c f.gz | cmp - f && echo same
gzip -9 -c f | wc -c
gzip f 2>&1
zcat f.gz | tail -1
gzip -t f.gz
echo $?
gunzip -f f.gz
ls
bzip2 -k f
bunzip2 -c f.bz2 | md5sum
echo junk | gunzip
echo $?
