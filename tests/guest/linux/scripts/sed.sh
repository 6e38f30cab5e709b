sed -n '/root/p' /etc/passwd
seq 1 20 | sed -e '3,5d' -e 's/1/one/g' -e '$a end' | sed 'y/abc/xyz/'
seq 10 | sed -n '2{p;n;p};$='
echo hello world | sed -E 's/(\w+) (\w+)/\2 \1/'
printf 'a\nb\n' > f
sed -i 's/a/A/' f
cat f
seq 5 | sed 'N;s/\n/-/'
sed '/x/' < /dev/null
echo $?
sed 'k' f
echo $?
