seq 1 5000 | sort -rn | head -20
seq 1 5000 | sort | md5sum
printf 'b 2\na 10\nc 1\n' | sort -k2n
printf 'x\nx\ny\n' | sort -u
printf 'a:3\nb:1\n' | sort -t: -k2
