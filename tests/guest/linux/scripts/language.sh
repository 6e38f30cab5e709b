a=hello
echo ${#a} ${a#he} ${a%lo} ${a/l/L} ${a//l/L} ${a:1:3} ${b:-def} ${b:=set} $b ${c:+alt}
set -- x y z
echo $# $2 "$@"
shift
echo $1
case abc in a*) echo match;; *) echo no;; esac
i=5
while [ $i -gt 0 ]
do i=$((i-1))
[ $i = 3 ] && continue
[ $i = 1 ] && break
echo $i
done
until [ $i = 4 ]
do i=$((i+1))
done
echo $i
for f in /etc/pass*
do echo $f
done
f() { local v=1
return 5
}
f
echo $?
echo $((0x10 + 010 * 3 % 7 << 2))
getopts ab: o -a -b v
echo $o
eval 'echo evald'
type cd
alias q=echo
echo $0
printf '%s\n' "a b" c
echo -e 'x\ty'
test 1 -lt 2 -a 3 -gt 2
echo $?
let z=3+4
echo $z
umask
umask 077
touch u
stat -c %a u
ulimit -n | wc -l
command -v ls
unset a
echo [$a]
readonly r=1
(r=2)
echo $?
IFS=:
for w in $(echo a:b)
do echo $w
done
