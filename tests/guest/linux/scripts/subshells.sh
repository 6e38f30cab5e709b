(a=1
echo $a
exit 3)
echo $? [$a]
{ b=2
echo $b
}
echo $b
x=$( (echo in
echo err >&2) 2>&1 )
echo "$x"
(cd /
pwd)
(exec echo replaced
echo never)
echo $(echo $(echo $(echo deep)))
( ( ( echo nested ) ) )
set -e
(false)
echo never
