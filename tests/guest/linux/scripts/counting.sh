seq 1 12345 | wc
seq 1 100 | wc -l -c
echo -n abc | wc
wc /etc/passwd /etc/group
wc -L /etc/passwd
seq 1 100 | head -n 5
seq 1 100 | tail -n 3
seq 1 100 | head -c 11
seq 1 100 | tail -c 9
seq 1 100 | tail -n +98
seq 1 10 | head -n -7
head -n 1 /etc/passwd /etc/group
