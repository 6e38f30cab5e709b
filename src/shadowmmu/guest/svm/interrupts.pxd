from ...kvm.vcpu cimport Vcpu
