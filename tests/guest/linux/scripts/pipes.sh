seq 1 200000 | head -1
yes | head -100000 | md5sum
seq 1 100000 | sort | uniq | wc -l | cat | cat | cat
cat /etc/passwd | while read l
do echo "${l%%:*}"
done | sort | head -5
echo a | (read x
echo got $x)
false | true
echo $?
true | false
echo $?
set -o pipefail
false | true
echo $?
yes | (read x
echo $x)
seq 1 1000000 | (sleep 0.1
exit 0)
echo $?
