grep -n root /etc/passwd
grep -c / /etc/passwd
grep -r bash /etc/passwd
seq 100 | grep -E '^(1|2)5$|99'
grep nothing /etc/passwd
echo $?
grep x /missing
echo $?
echo aXb | grep -io x
printf 'a\nb\nc\nd\n' | grep -A1 -B1 b
seq 30 | grep -v 1 | tr '\n' ' '
printf 'foo\nbar\n' > p
printf 'xfoo\nbaz\n' | grep -f p
echo 'a.b' | grep -F a.b
fgrep root /etc/passwd
egrep 'ro+t' /etc/passwd
