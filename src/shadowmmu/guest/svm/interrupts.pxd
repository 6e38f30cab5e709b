from ...kvm.state.vcpu cimport Vcpu
