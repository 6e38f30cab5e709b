exec 3>f
echo to3 >&3
exec 3>&-
cat f
exec 4<f
read l <&4
echo $l
echo a >> f
echo b >> f
cat < f > g
cat g
ls nothere 2>&1 >/dev/null | wc -l
echo x >&9
echo $?
set -C
echo y > f
echo $?
echo z >| f
cat f
: >| f
cat f
echo both > h 2>&1
cat h
cat /dev/null
echo n > /dev/null
cat /proc/self/comm 2>/dev/null | wc -l
exec 5<>rw
echo hi >&5
cat rw
echo out
echo err >&2
